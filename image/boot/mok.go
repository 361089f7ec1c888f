package boot

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"unicode/utf16"
)

// Identifiers as they lie in a variable: EFI_CERT_X509_GUID (UEFI 2.10, 32.4.1)
// and shim's own.
const (
	certX509 = "\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72"
	shimLock = "\x50\xab\x5d\x60\x46\xe0\x00\x43\xab\xb6\x3d\xd8\x10\xdd\x8b\x23"
)

// ModuleCert is the file, beside the loaders, of the certificate of the key that
// signed a build's own modules.
const ModuleCert = "modules.der"

// signatureHead is the length of an EFI_SIGNATURE_LIST without its entries.
const signatureHead = 28

// MokPasswordMax is the longest password that MokManager takes.
const MokPasswordMax = 256

// MokRequest asks shim to enrol a certificate (DER) as a machine owner's key at
// the next start, as mokutil(1) --import --simple-hash does: the variable MokNew
// is a list with the certificate, MokAuth the SHA-256 of that list and the
// password in UTF-16. The hash covers the list, so that no other list is enrolled
// with the same password.
func MokRequest(cert []byte, password string) (list, auth []byte, err error) {
	if len(cert) == 0 || len(cert) > 16<<10 {
		return nil, nil, errors.New("ask for the enrolment of a key: the certificate is empty or larger than 16 KiB")
	}
	wide := utf16.Encode([]rune(password))
	if len(wide) == 0 || len(wide) > MokPasswordMax {
		return nil, nil, errors.New("ask for the enrolment of a key: the password is empty or too long")
	}
	le := binary.LittleEndian
	entry := uint32(len(shimLock) + len(cert))
	list = append(list, certX509...)
	list = le.AppendUint32(list, signatureHead+entry)
	list = le.AppendUint32(list, 0) // no header
	list = le.AppendUint32(list, entry)
	list = append(list, shimLock...)
	list = append(list, cert...)
	h := sha256.New()
	h.Write(list)
	for _, u := range wide {
		h.Write(le.AppendUint16(nil, u))
	}
	return list, h.Sum(nil), nil
}
