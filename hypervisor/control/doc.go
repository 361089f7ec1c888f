// Package control is what turns intent into running guests: the table of all
// guests in the cluster store, the operations on them (create, configure,
// start, stop, resize, destroy), which of them may start in which state, and
// the controller that follows the guests that run here.
//
// Intent is a Record in the store, one key per VMID. Every operation that takes
// time is a task; what a task makes it writes into its journal first, so that a
// crash in the middle is undone before the next task of that guest. Guests
// outlive the daemon: what runs is asked of the drivers, never remembered.
package control
