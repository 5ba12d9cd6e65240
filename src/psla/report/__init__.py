"""Pages and pictures from plain data: HTML from templates, Markdown, PNG, SVG and PDF.

What a lab, a run, a corpus or an enhancement has to say is computed in their rooms and handed in as parts of a page or
as numbers of a picture. Nothing here reads a run or trains, and nothing is loaded from elsewhere by a page.
"""
