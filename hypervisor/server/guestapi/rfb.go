package guestapi

import (
	"crypto/des" // RFB's own authentication, RFC 6143 7.2.2
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"
)

// The Remote Framebuffer protocol, RFC 6143. Machines' screens ask for no
// password, because only the daemon reaches their sockets; clients expect to
// authenticate with the console ticket. So the node speaks the opening of the
// protocol with each side for itself, and everything after it is passed on
// unread.

const (
	rfbNone    = 1 // security types, 7.1.2
	rfbVNCAuth = 2
	rfb38      = "RFB 003.008\n"
)

var errPassword = errors.New("VNC authentication failed")

// greetClient does the server's part of the opening: version, security type
// "VNC authentication", result.
func greetClient(rw io.ReadWriter, password string) error {
	if _, err := io.WriteString(rw, rfb38); err != nil {
		return err
	}
	minor, err := readVersion(rw)
	if err != nil {
		return err
	}
	if err := offer(rw, minor); err != nil {
		return err
	}
	var challenge, answer [16]byte
	if _, err := rand.Read(challenge[:]); err != nil {
		return err
	}
	if _, err := rw.Write(challenge[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(rw, answer[:]); err != nil {
		return err
	}
	want := vncAnswer(password, challenge)
	if subtle.ConstantTimeCompare(want[:], answer[:]) != 1 {
		return errors.Join(errPassword, refuseClient(rw, minor))
	}
	return writeWord(rw, 0)
}

// offer names the one security type. Version 3.3 has no choice (7.1.2).
func offer(rw io.ReadWriter, minor int) error {
	if minor == 3 {
		return writeWord(rw, rfbVNCAuth)
	}
	if _, err := rw.Write([]byte{1, rfbVNCAuth}); err != nil {
		return err
	}
	var chosen [1]byte
	if _, err := io.ReadFull(rw, chosen[:]); err != nil {
		return err
	}
	if chosen[0] != rfbVNCAuth {
		return fmt.Errorf("VNC client chose security type %d, which was not offered", chosen[0])
	}
	return nil
}

// refuseClient says that the password was wrong; only 3.8 has a reason.
func refuseClient(w io.Writer, minor int) error {
	if err := writeWord(w, 1); err != nil || minor < 8 {
		return err
	}
	return writeText(w, "authentication failed")
}

// readVersion returns 3, 7 or 8; versions nobody has heard of count as 3.3.
func readVersion(r io.Reader) (minor int, err error) {
	var v [12]byte
	if _, err := io.ReadFull(r, v[:]); err != nil {
		return 0, err
	}
	if !strings.HasPrefix(string(v[:]), "RFB ") || v[11] != '\n' {
		return 0, errors.New("no VNC client: it sent no protocol version")
	}
	switch string(v[4:11]) {
	case "003.007":
		return 7, nil
	case "003.008":
		return 8, nil
	}
	return 3, nil
}

// vncAnswer encrypts the challenge with the password's first eight bytes as a
// DES key whose bytes are mirrored, which the RFC does not say but every
// implementation does (RFC 6143 erratum 4951).
func vncAnswer(password string, challenge [16]byte) (out [16]byte) {
	var key [8]byte
	copy(key[:], password)
	for i := range key {
		key[i] = bits.Reverse8(key[i])
	}
	c, err := des.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has eight bytes
	}
	c.Encrypt(out[:8], challenge[:8])
	c.Encrypt(out[8:], challenge[8:])
	return out
}

// greetServer does the client's part of the opening towards the machine.
func greetServer(rw io.ReadWriter) error {
	if _, err := readVersion(rw); err != nil {
		return err
	}
	if _, err := io.WriteString(rw, rfb38); err != nil {
		return err
	}
	var n [1]byte
	if _, err := io.ReadFull(rw, n[:]); err != nil {
		return err
	}
	types := make([]byte, n[0])
	if _, err := io.ReadFull(rw, types); err != nil {
		return err
	}
	if !strings.ContainsRune(string(types), rfbNone) {
		return errors.New("the guest's screen wants a password")
	}
	if _, err := rw.Write([]byte{rfbNone}); err != nil {
		return err
	}
	var result [4]byte
	if _, err := io.ReadFull(rw, result[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(result[:]) != 0 {
		return errors.New("the guest's screen refused the connection")
	}
	return nil
}

func writeWord(w io.Writer, n uint32) error {
	_, err := w.Write(binary.BigEndian.AppendUint32(nil, n))
	return err
}

func writeText(w io.Writer, s string) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...))
	return err
}
