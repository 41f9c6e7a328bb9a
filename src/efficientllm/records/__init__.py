"""What is said and stored: frozen, typed structs, without behaviour and without torch.

card -> what a technique claims; choice, settings, protocol -> what a recipe asks for; trial -> one thing to measure;
environment -> where; series, window, measurement -> what was seen; codec -> to bytes and back.
"""
