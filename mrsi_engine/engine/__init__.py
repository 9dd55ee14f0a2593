"""The only room that knows Dask: a plan, its passes, its blocks, and who does them."""
