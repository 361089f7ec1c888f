package task

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Journal is what a task leaves behind for whoever has to clean up after it.
// A task records, before each step, how to undo it. When the task succeeds the
// records vanish; when it fails, or the node dies and starts again, they are
// handed to the Replayers of their kind, the last one first.
type Journal interface {
	// Record returns when the record is on the disk.
	Record(kind string, payload any) error
	// Done drops all records: what was done so far stays done.
	Done() error
}

// Replayer undoes, or finishes, one recorded step. It may be called again for
// a step that it dealt with already and must then do nothing.
type Replayer func(ctx context.Context, payload json.RawMessage) error

type journalKey struct{}

// JournalOf returns the journal of the task that ctx belongs to. Outside a
// task it is a mistake and gives nil.
func JournalOf(ctx context.Context) Journal {
	if j, ok := ctx.Value(journalKey{}).(*journal); ok {
		return j
	}
	return nil
}

type record struct {
	Kind    string          `json:"kind"`
	Payload json.RawMessage `json:"payload"`
}

// journal is a file with a JSON record per line; it exists from the first
// record on.
type journal struct {
	mu   sync.Mutex
	name string
	f    *os.File
}

func newJournal(name string) *journal { return &journal{name: name} }

func (j *journal) Record(kind string, payload any) error {
	p, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("record %s: %w", kind, err)
	}
	b, err := json.Marshal(record{kind, p})
	if err != nil {
		return fmt.Errorf("record %s: %w", kind, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f == nil {
		if j.f, err = os.OpenFile(j.name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err == nil {
			err = syncDir(filepath.Dir(j.name))
		}
	}
	if err == nil {
		_, err = j.f.Write(append(b, '\n'))
	}
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", kind, err)
	}
	return nil
}

func (j *journal) Done() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f != nil {
		j.f.Close()
		j.f = nil
	}
	err := os.Remove(j.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(j.name))
	}
	if err != nil {
		return fmt.Errorf("end journal: %w", err)
	}
	return nil
}

// close lets go of the file and leaves it for the next start.
func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f != nil {
		j.f.Close()
		j.f = nil
	}
}

// records reads the journal. A last line that a crash cut was never
// acknowledged and is dropped.
func (j *journal) records() ([]record, error) {
	b, err := os.ReadFile(j.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	var list []record
	r := bufio.NewReader(bytes.NewReader(b))
	for {
		s, err := r.ReadBytes('\n')
		if err != nil {
			return list, nil
		}
		var rec record
		if err := json.Unmarshal(s, &rec); err != nil {
			return nil, fmt.Errorf("read journal %s: %w", filepath.Base(j.name), err)
		}
		list = append(list, rec)
	}
}

// undo replays a journal, last record first, and removes it when all of it
// went well.
func (m *Manager) undo(ctx context.Context, j *journal) error {
	list, err := j.records()
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(list) {
		f := m.replay[r.Kind]
		if f == nil {
			return fmt.Errorf("undo %s: nobody knows how", r.Kind)
		}
		if err := f(ctx, r.Payload); err != nil {
			return fmt.Errorf("undo %s: %w", r.Kind, err)
		}
	}
	return j.Done()
}

// Recover takes the replayers by kind, replays the journals of interrupted
// tasks and allows Start. A journal that cannot be replayed stays for the next
// start and is reported; it does not keep the daemon from starting.
func (m *Manager) Recover(ctx context.Context, replayers map[string]Replayer) error {
	m.replay = replayers
	dir := filepath.Join(m.o.Dir, journalDir)
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read journals: %w", err)
	}
	for _, e := range files {
		if err := m.undo(ctx, newJournal(filepath.Join(dir, e.Name()))); err != nil {
			m.o.Log.Error("recover task", "upid", e.Name(), "err", err)
			continue
		}
		m.o.Log.Info("interrupted task undone", "upid", e.Name())
	}
	m.mu.Lock()
	m.ready = true
	m.mu.Unlock()
	return nil
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
