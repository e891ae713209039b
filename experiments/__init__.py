"""Tables of the papers: experiment files, stages run by a workflow engine, results published beside the papers'."""
