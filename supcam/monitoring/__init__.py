"""Watching production: are its answers still those that were validated?"""
