// Package vterm is a text terminal in memory: what a program writes goes in,
// the picture that a person would see can be read. It speaks what terminfo(5)
// calls xterm-256color, as far as programs on a text console use it: cursor
// and erase functions, scroll regions, insertion and deletion, colours, the
// alternate screen, line drawing. The functions are those of ECMA-48 and of
// DEC's terminals (vt100.net; xterm's ctlseqs lists all of them).
//
// It is pure: no clock, no files, nothing but bytes in and cells out, and what
// a guest writes can cost no more than the size of the screen.
package vterm
