"""Tables for the terminal, Markdown, and one offline HTML page. No torch."""
