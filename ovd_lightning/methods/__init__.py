"""One short file a method; configs name them by class_path."""
