"""Jobs: the record and its state machine, the store that keeps it, the queue that wakes a worker."""
