// Package sbom writes the bill of materials of an image in the form of SPDX
// 2.3 (https://spdx.github.io/spdx-spec/v2.3/): its packages and Go modules
// with versions, hashes and licences. The text depends on its input alone.
package sbom

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Document is what is said of one image.
type Document struct {
	Name     string // of the image, with its version
	BuildID  string // makes the document's name one of its own
	Version  string
	Created  time.Time
	Packages []Package
}

// Kind is where a package is from.
type Kind string

// The kinds of packages.
const (
	Debian   Kind = "deb"
	GoModule Kind = "golang"
)

// Package is one part of the image.
type Package struct {
	Kind      Kind
	Name      string
	Version   string
	Arch      string // of Debian's
	SHA256    string // of the .deb; "" where none is known
	Copyright []byte // debian/copyright
}

const (
	noAssertion = "NOASSERTION"
	rootID      = "SPDXRef-image"
)

// The JSON of SPDX 2.3; clause numbers are those of the specification.
type document struct {
	Version   string         `json:"spdxVersion"`
	Licence   string         `json:"dataLicense"`
	ID        string         `json:"SPDXID"`
	Name      string         `json:"name"`
	Namespace string         `json:"documentNamespace"`
	Info      info           `json:"creationInfo"`
	Packages  []element      `json:"packages"`
	Extracted []extracted    `json:"hasExtractedLicensingInfos,omitempty"`
	Relations []relationship `json:"relationships"`
}

type info struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type element struct {
	ID        string     `json:"SPDXID"`
	Name      string     `json:"name"`
	Version   string     `json:"versionInfo"`
	Supplier  string     `json:"supplier,omitempty"`
	Location  string     `json:"downloadLocation"`
	Analyzed  bool       `json:"filesAnalyzed"`
	Checksums []checksum `json:"checksums,omitempty"`
	Concluded string     `json:"licenseConcluded"`
	Declared  string     `json:"licenseDeclared"`
	Copyright string     `json:"copyrightText"`
	Refs      []external `json:"externalRefs,omitempty"`
	Purpose   string     `json:"primaryPackagePurpose,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type external struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type extracted struct {
	ID   string `json:"licenseId"`
	Text string `json:"extractedText"`
	Name string `json:"name"`
}

type relationship struct {
	Of   string `json:"spdxElementId"`
	Kind string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// Encode is the document's text.
func (d Document) Encode() ([]byte, error) {
	out := document{Version: "SPDX-2.3", Licence: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: d.Name, Namespace: "urn:joist:build:" + d.BuildID,
		Info: info{Created: d.Created.UTC().Format(time.RFC3339), Creators: []string{"Tool: joist-" + d.Version}}}
	out.Packages = []element{{ID: rootID, Name: d.Name, Version: d.Version, Location: noAssertion,
		Concluded: noAssertion, Declared: noAssertion, Copyright: noAssertion, Purpose: "OPERATING-SYSTEM"}}
	out.Relations = []relationship{{Of: out.ID, Kind: "DESCRIBES", To: rootID}}
	named := map[string]string{} // name of a licence that is not on the list of SPDX → its id here
	list := slices.Clone(d.Packages)
	slices.SortFunc(list, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	seen := map[string]string{}
	for _, p := range list {
		e, err := p.element(named)
		if err != nil {
			return nil, fmt.Errorf("write bill of materials: %w", err)
		}
		if other, ok := seen[e.ID]; ok {
			return nil, fmt.Errorf("write bill of materials: %s and %s have the same id", other, p.Name)
		}
		seen[e.ID] = p.Name
		out.Packages = append(out.Packages, e)
		out.Relations = append(out.Relations, relationship{Of: rootID, Kind: "CONTAINS", To: e.ID})
	}
	names := map[string][]string{} // id → names; two that differ in odd characters share one
	for name, id := range named {
		names[id] = append(names[id], name)
	}
	for id, list := range names {
		slices.Sort(list)
		name := strings.Join(list, ", ")
		out.Extracted = append(out.Extracted, extracted{ID: id, Name: name, Text: "What the copyright files of the packages that name it call " + name + "."})
	}
	slices.SortFunc(out.Extracted, func(a, b extracted) int { return strings.Compare(a.ID, b.ID) })
	b, err := json.MarshalIndent(out, "", " ")
	return append(b, '\n'), err
}

// notID are the characters that an SPDX identifier must not have.
var notID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func (p Package) element(named map[string]string) (element, error) {
	e := element{ID: "SPDXRef-" + string(p.Kind) + "-" + notID.ReplaceAllStringFunc(p.Name, hexed), Name: p.Name, Version: p.Version,
		Location: noAssertion, Concluded: noAssertion, Declared: noAssertion, Copyright: noAssertion}
	var purl string
	switch p.Kind {
	case Debian:
		e.Supplier = "Organization: Debian"
		purl = "pkg:deb/debian/" + url.PathEscape(p.Name) + "@" + url.QueryEscape(p.Version) + "?arch=" + p.Arch
		if x := Licence(p.Copyright, named); x != "" {
			e.Declared = x
		}
	case GoModule:
		purl = "pkg:golang/" + p.Name + "@" + url.QueryEscape(p.Version)
	default:
		return e, fmt.Errorf("%s: kind %q is unknown", p.Name, p.Kind)
	}
	if p.SHA256 != "" {
		e.Checksums = []checksum{{"SHA256", p.SHA256}}
	}
	e.Refs = []external{{"PACKAGE-MANAGER", "purl", purl}}
	return e, nil
}

// hexed keeps two names apart that differ in such characters alone.
func hexed(s string) string { return fmt.Sprintf("-%x-", s) }

// Brief is what a reader of the document shows of a package.
type Brief struct {
	Kind    Kind   `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Licence string `json:"licence"`
}

// Decode reads the packages of a document that Encode wrote.
func Decode(text []byte) ([]Brief, error) {
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("read bill of materials: %w", err)
	}
	if d.Version != "SPDX-2.3" {
		return nil, fmt.Errorf("read bill of materials: version %q is not SPDX-2.3", d.Version)
	}
	var out []Brief
	for _, e := range d.Packages {
		if e.ID == rootID {
			continue
		}
		kind := GoModule
		if strings.HasPrefix(e.ID, "SPDXRef-"+string(Debian)+"-") {
			kind = Debian
		}
		out = append(out, Brief{kind, e.Name, e.Version, e.Declared})
	}
	return out, nil
}
