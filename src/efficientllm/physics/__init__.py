"""What no honest measurement can be: pure checks with reason codes. No torch.

finding -> what a check says; roofline -> the shortest possible time; rates, amounts, backward, learning -> what is
impossible; suspicion -> what is doubtful; judge -> all of them over one record.
"""
