"""Whole designs of a decoder's blocks, one file each. Needs no torch."""
