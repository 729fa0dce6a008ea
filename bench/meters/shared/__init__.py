"""What the models in a process share: torch's settings, and the functions that they all call.

A method that changes one of them changes the dense model that it is compared with.

settings    threads, number formats, kernels, hooks, the interpreter: what is in force, by name
functions   of torch, of the harness and of dense models: which object stands under which name
state       both at one moment, and what has changed since
"""
