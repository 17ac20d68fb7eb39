"""The cluster, and the controllers that delete objects: deletion, garbage collection, namespaces."""
