"""Is a submission what it says it is? Every check that can be made again from what is stored. No torch.

submission -> what was handed in, read once; checks/ -> one file a check; validate -> all of them over one submission.

This is integrity, not authenticity: who invents consistent raw series passes (see docs/validation.md).
"""
