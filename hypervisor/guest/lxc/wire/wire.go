// Package wire is what joistd and its helper joist-lxc say to each other: one
// JSON Request on the helper's stdin, one JSON Reply on its stdout. The helper
// is the only program that is linked with liblxc.
package wire

// Operations of the helper.
const (
	Run     = "run"     // start the container; the reply comes when it runs, a monitor stays behind
	Exec    = "exec"    // run Argv in the container, on descriptor TTY if there is one
	Console = "console" // allocate a terminal, send its descriptor over descriptor 3, hold it until stdin ends
	Hold    = "hold"    // keep the terminals open that Monitor gave the container, until Init ends
	Version = "version" // liblxc's version
)

// TTY is the descriptor of the terminal of an Exec with Request.TTY, and of
// the socket of a Console.
const TTY = 3

// Request asks for one operation on one container.
type Request struct {
	Op   string   `json:"op"`
	Path string   `json:"path,omitempty"` // folder with a folder per container, which holds its "config"
	Name string   `json:"name,omitempty"`
	Argv []string `json:"argv,omitempty"`
	Env  []string `json:"env,omitempty"`
	TTY  bool     `json:"tty,omitempty"`
	// Terminal is which one a Console wants: 0 is /dev/console, -1 any of the
	// others that is free.
	Terminal int `json:"terminal,omitempty"`
	// Init and Monitor are the processes of a Hold.
	Init    Process `json:"init,omitzero"`
	Monitor Process `json:"monitor,omitzero"`
}

// Process is one process for good, by its start time in clock ticks.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// MaxOutput bounds what an Exec returns of each of its outputs.
const MaxOutput = 16 << 20

// Reply is the outcome. Error is empty when the operation worked, whatever
// status a command ended with.
type Reply struct {
	Error   string `json:"error,omitempty"`
	Init    int    `json:"init,omitempty"` // Run: the container's first process as the host sees it
	Exit    int    `json:"exit,omitempty"`
	Stdout  []byte `json:"stdout,omitempty"`
	Stderr  []byte `json:"stderr,omitempty"`
	Version string `json:"version,omitempty"`
}
