"""The demo: a recorded run on real data, and hostile programs. Data and programs lie beside the modules."""
