package answer

import "joist/internal/finding"

// Row is one code of a finding, for documentation.
type Row struct {
	Code       string
	Level      finding.Level
	When, Cure string
}

// Findings lists what reading an answer, or the name of its server, may say;
// text and cure depend on the case.
func Findings() []Row {
	const warn, stop = finding.Warn, finding.Stop
	return []Row{
		{"answer-unreadable", stop, "the file cannot be read", "check the medium that holds it"},
		{"answer-too-large", stop, "it is larger than 256 KiB", "check that this is the right file"},
		{"answer-syntax", stop, "it is neither TOML nor JSON", "correct the line that is shown"},
		{"answer-unknown-key", stop, "the schema has no such key", "correct or remove it; the nearest key is named"},
		{"answer-duplicate-key", stop, "a key is given twice, or once in each spelling", "keep one of the two"},
		{"answer-missing-key", stop, "a key is missing that is needed, always or beside another one", "add it"},
		{"answer-wrong-type", stop, "a value is of another type than the key takes", "write it as the finding says"},
		{"answer-wrong-value", stop, "a value is not one of those allowed, out of range, or not of the form that it must have", "use what the finding names"},
		{"answer-conflict", stop, "two keys exclude each other, or one has no meaning beside another", "remove one of the two"},
		{"answer-disk-count", stop, "`disk-list` names another number of disks than the layout takes", "name as many as the layout takes"},
		{"answer-weak-password", stop, "the password is shorter than 8 characters", "use a longer one"},
		{"answer-token-in-clear", warn, "a token is sent to an http address", "use an https address"},
		{"answer-source-invalid", stop, "address, fingerprint or token of an answer server cannot be used, or `joist.answer` is no place of an answer", "correct it where the finding says that it stands"},
	}
}
