"""How does an experiment become one HTML file that a browser opens without a network?

gather.py reads it, results.py and compared.py make its figures, charts.py, cells.py, curves.py and
strips.py its pictures; page.py puts them into page.html.j2 with style.css.
"""
