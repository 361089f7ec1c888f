// Package bench compares the builder with what people build images with
// otherwise, in one run, and writes build/figures-build.md. What is compared is
// run in turn, A B A B, so that a machine that has other things to do slows both.
package bench
