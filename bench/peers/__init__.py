"""This cluster beside other servers of models, each in an environment of its own: python -m bench.peers"""
