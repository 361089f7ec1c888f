package guestapi

import (
	"bufio"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strconv"

	"joist/hypervisor/guest"
)

// The terminal protocol of the field: the client says USER:TICKET and a line
// feed, the node answers OK and then sends raw output; the client sends frames:
//
//	0:LENGTH:DATA      what was typed
//	1:COLUMNS:ROWS:    the terminal's size
//	2                  still there

const (
	maxHello = 1024
	maxTyped = 128 << 10 // the payload limit of a WebSocket message
)

var errHello = errors.New("terminal client sent a wrong ticket")

// greetTerminal reads the first line.
func greetTerminal(r *bufio.Reader, w io.Writer, user, ticket string) error {
	line, err := readUntil(r, '\n', maxHello)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(line), []byte(user+":"+ticket)) != 1 {
		return errHello
	}
	_, err = io.WriteString(w, "OK")
	return err
}

// readUntil reads up to a delimiter, which it drops.
func readUntil(r *bufio.Reader, end byte, limit int) (string, error) {
	var b []byte
	for len(b) < limit {
		c, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if c == end {
			return string(b), nil
		}
		b = append(b, c)
	}
	return "", fmt.Errorf("terminal client sent %d bytes without %q", limit, end)
}

func readNumber(r *bufio.Reader, most int) (int, error) {
	s, err := readUntil(r, ':', 8)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("terminal client sent %q where a number belongs", s)
	}
	return n, nil
}

// typed passes the client's frames on until the client or the guest ends.
func typed(r *bufio.Reader, to guest.Console) error {
	for {
		kind, err := r.ReadByte()
		if err != nil {
			return err
		}
		switch kind {
		case '2':
		case '0', '1':
			if c, err := r.ReadByte(); err != nil || c != ':' {
				return errors.Join(err, errors.New("terminal client sent a broken frame"))
			}
			if err := frame(kind, r, to); err != nil {
				return err
			}
		case '\n', '\r': // some clients end their keep-alive with one
		default:
			return fmt.Errorf("terminal client sent an unknown frame %q", kind)
		}
	}
}

func frame(kind byte, r *bufio.Reader, to guest.Console) error {
	if kind == '1' {
		cols, err := readNumber(r, 4096)
		if err != nil {
			return err
		}
		rows, err := readNumber(r, 4096)
		if err != nil {
			return err
		}
		return to.Resize(uint16(cols), uint16(rows))
	}
	n, err := readNumber(r, maxTyped)
	if err != nil {
		return err
	}
	_, err = io.CopyN(to, r, int64(n))
	return err
}
