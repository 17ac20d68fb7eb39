"""What every room uses: refusals, quantities, times, ids, options and faults."""
