"""Studies: figures of the papers that are neither an attack's nor a certificate's, measured through queries alone.

``python -m experiments.studies.<study> --checkpoint FILE`` writes ``<root>/study/<name>/study.json``.
"""
