"""One round of training: what is sampled, graded, credited, and packed into micro-batches."""
