"""What a ticket tells: its sizes and multiplications, its batch-norm averages."""
