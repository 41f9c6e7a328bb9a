"""Token mixers, one file each, held by `_contract.py`."""
