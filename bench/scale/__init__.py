"""What stays flat and what grows with the catalogue and with the members: python -m bench.scale"""
