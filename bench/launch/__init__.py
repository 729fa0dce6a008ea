"""Runs trial folders: one fresh process per trial, one trial per free device.

local        run_trials(folders): the queue of this machine, from the first trial to Ctrl-C
queue        which trial starts when and on which device
outcome      how the trials ended
pending      one waiting folder: requested resources, its lock, a record by another launcher
devices      the devices of this machine and the locks that reserve them
process      a trial's process, seen from the launcher: start, messages, time limit, exit
child        the same process, seen from inside
messages     the pipe between the two
lifetime     binds a process to its launcher
fork_server  makes the fork server inherit what a crashed trial leaves behind
distributed  a trial of several ranks under torchrun
failures     the record of a trial that wrote none
progress     the display: a bar on a terminal, plain lines elsewhere
forecast     the time left
"""
