"""Data sets in COCO format, augmentation and batches."""
