"""From the making of a cluster to the end of its objects: deletion, garbage, namespaces."""
