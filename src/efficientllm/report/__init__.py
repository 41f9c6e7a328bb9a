"""Tables for the terminal, Markdown, and one offline HTML page. No torch.

marks -> what stands in a cell; terminal, markdown, html -> the three forms of one `StudyTable`; curves, page.* -> the
page's data and its looks.
"""
