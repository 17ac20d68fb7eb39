"""What the API server fills in before it checks: pure, body in, body out."""
