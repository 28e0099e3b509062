"""Texts in: what corpora, references and captions to score are read from, whatever their format."""
