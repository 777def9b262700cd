"""What people look at: pictures, the page of an experiment, the model card.

gather.py reads an experiment, results.py counts, pictures.py and contact.py draw, page.py puts all
into one HTML file that a browser opens without a network.
"""
