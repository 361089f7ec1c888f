package zfs

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"joist/hypervisor/storage"
	"joist/internal/run"
)

// row is a volume as `zfs list -H -p` prints it.
type row struct {
	name                string // without the dataset
	size, used, created int64
	mode                string
}

// parse reads the list of the volumes in a dataset: a line each, separated by
// tabs (zfs-list(8)).
func parse(out []byte, dataset string) ([]row, error) {
	var rows []row
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		name, ok := "", false
		if len(f) == 5 {
			name, ok = strings.CutPrefix(f[0], dataset+"/")
		}
		v := row{name: name}
		if ok {
			v.mode = f[4]
			for i, to := range []*int64{&v.size, &v.used, &v.created} {
				n, err := strconv.ParseInt(f[i+1], 10, 64)
				*to, ok = n, ok && err == nil
			}
		}
		if !ok {
			return nil, fmt.Errorf("read list of zfs: unexpected line %q", line)
		}
		rows = append(rows, v)
	}
	return rows, nil
}

// ErrNoPool says that the pool is not there: its disks are missing.
var ErrNoPool = errors.New("pool is missing")

// rule maps a message of zfs to what it means to us; its exit status is 1 for
// all of them.
type rule struct {
	text *regexp.Regexp
	is   error
}

// rules are tried in order; the messages are those of OpenZFS 2.3 in the C
// locale (lib/libzfs/libzfs_util.c). Each has an example in testdata.
func rules() []rule {
	return []rule{
		{regexp.MustCompile(`dataset already exists`), storage.ErrExists},
		{regexp.MustCompile(`dataset does not exist`), storage.ErrNotFound},
		{regexp.MustCompile(`dataset is busy|pool or dataset is busy`), storage.ErrInUse},
		{regexp.MustCompile(`out of space|size is greater than available space`), storage.ErrNoSpace},
		{regexp.MustCompile(`no such pool`), ErrNoPool},
	}
}

// failure is a run.Error whose text is what zfs said first: hints follow.
type failure struct {
	cause *run.Error
	text  string
}

func (f *failure) Error() string { return "zfs: " + f.text }
func (f *failure) Unwrap() error { return f.cause }

// classify adds the sentinel that stderr stands for.
func classify(err error) error {
	var e *run.Error
	if !errors.As(err, &e) {
		return err
	}
	text, _, _ := strings.Cut(strings.TrimSpace(string(e.Stderr)), "\n")
	if text != "" {
		err = &failure{e, text}
	}
	for _, r := range rules() {
		if r.text.MatchString(text) {
			return fmt.Errorf("%w: %w", r.is, err)
		}
	}
	return err
}
