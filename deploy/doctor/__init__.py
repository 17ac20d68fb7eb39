"""What people get wrong when they run this service, looked for, and what to do about it: `python -m deploy.doctor`."""
