"""Does it pay? Each claim of the field, answered from records: answers.md, answers.csv.

outcome    yes, no, undecided or not measured, with number, interval and reason
case       one method's row beside its dense model, with the trials behind both
gains      compute, time, deadline, energy, memory, quality
harder     corrupted and anomalous inputs
baselines  dense models of equal parameters, equal executed FLOPs and equal quality
costs      routing overhead, training, spread over seeds, batch, compile and export
controls   what routing errors cost: against the oracle and against random decisions
findings   all of it for a table, and the summary in sentences
render     Markdown, CSV, and the rows of the HTML page
"""
