"""Folding the channels of convolutions, together with the dense chains around them."""
