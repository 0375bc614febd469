"""What "responsible" asks of generated images: no copies, no leak, balance, and a data card."""
