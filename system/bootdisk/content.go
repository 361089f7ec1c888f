package bootdisk

import (
	"bytes"
	"io"

	"joist/image/disk"
)

// content is a file that is made here.
type content []byte

func (c content) Size() int64                  { return int64(len(c)) }
func (c content) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c)), nil }

func readFile(f disk.File) ([]byte, error) {
	r, err := f.Data.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
