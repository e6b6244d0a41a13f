"""What is true by proof: facts about a program that no measurement could establish."""
