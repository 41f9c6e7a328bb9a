"""What no honest measurement can be: pure checks with reason codes. No torch."""
