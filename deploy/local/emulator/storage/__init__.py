"""The objects of the cluster: kinds, versions, selectors, patches, pages and watches."""
