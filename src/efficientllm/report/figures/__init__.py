"""Figures for papers: SVG, PDF or PNG files, one column wide. They need matplotlib (`efficientllm[figures]`)."""
