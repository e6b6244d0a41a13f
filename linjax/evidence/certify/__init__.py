"""Certificates: proofs about the signs of pre-activations over a box of inputs."""

from linjax.evidence.certify.network import CertificateCheck, certify, check_certificate

__all__ = ["CertificateCheck", "certify", "check_certificate"]
