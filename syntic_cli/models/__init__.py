"""Frozen pretrained models behind small adapters: text to image, dual encoder, detector, writer."""
