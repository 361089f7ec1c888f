package vm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unicode/utf16"
)

// Identifiers as they lie in memory: EFI_AUTHENTICATED_VARIABLE_GUID, shim's
// own GUID and EFI_CERT_X509_GUID.
const (
	storeGUID = "\x78\x2c\xf3\xaa\x7b\x94\x9a\x43\xa1\x80\x2e\x14\x4e\xc3\x77\x92"
	shimGUID  = "\x50\xab\x5d\x60\x46\xe0\x00\x43\xab\xb6\x3d\xd8\x10\xdd\x8b\x23"
	x509GUID  = "\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72"
)

// Lengths of edk2's headers (MdeModulePkg/Include/Guid/VariableFormat.h).
const (
	storeHeader    = 28
	variableHeader = 60
)

// EnrolKey makes the UEFI variables of a machine with Secure Boot, to be used
// as Config.Vars, in which a person has enrolled a certificate (DER) with
// shim's MokManager.
func EnrolKey(path string, cert []byte) error {
	vars, err := os.ReadFile(OVMFSecureBoot.vars())
	if err != nil {
		return fmt.Errorf("open firmware (Debian package ovmf): %w", err)
	}
	if err := addVariable(vars, "MokList", shimGUID, signatureList(cert)); err != nil {
		return fmt.Errorf("enrol a key: %w", err)
	}
	return os.WriteFile(path, vars, 0o600)
}

// signatureList is an EFI_SIGNATURE_LIST of one certificate, owned by shim
// (UEFI 2.10, 32.4.1).
func signatureList(cert []byte) []byte {
	var b bytes.Buffer
	b.WriteString(x509GUID)
	entry := uint32(len(shimGUID) + len(cert))
	for _, n := range []uint32{uint32(len(x509GUID)) + 12 + entry, 0, entry} {
		binary.Write(&b, binary.LittleEndian, n)
	}
	b.WriteString(shimGUID)
	b.Write(cert)
	return b.Bytes()
}

// addVariable puts a variable that only boot services see behind the others of
// a firmware volume.
func addVariable(volume []byte, name, vendor string, data []byte) error {
	at := bytes.Index(volume, []byte(storeGUID))
	if at < 0 {
		return errors.New("there is no store of variables")
	}
	le := binary.LittleEndian
	end := at + int(le.Uint32(volume[at+16:]))
	at += storeHeader
	for at+variableHeader <= end && le.Uint16(volume[at:]) == 0x55aa {
		at += variableHeader + int(le.Uint32(volume[at+36:])) + int(le.Uint32(volume[at+40:]))
		at = (at + 3) &^ 3
	}
	var wide bytes.Buffer
	binary.Write(&wide, le, append(utf16.Encode([]rune(name)), 0))
	head := make([]byte, variableHeader)
	le.PutUint16(head, 0x55aa)
	head[2] = 0x3f            // VAR_ADDED
	le.PutUint32(head[4:], 3) // kept, and for boot services
	le.PutUint32(head[36:], uint32(wide.Len()))
	le.PutUint32(head[40:], uint32(len(data)))
	copy(head[44:], vendor)
	whole := bytes.Join([][]byte{head, wide.Bytes(), data}, nil)
	if at+len(whole) > end {
		return errors.New("the store of variables is full")
	}
	copy(volume[at:], whole)
	return nil
}
