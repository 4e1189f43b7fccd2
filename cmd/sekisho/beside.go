package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sekisho/authz"
	"sekisho/authz/authkeys"
	"sekisho/authz/krl"
	"sekisho/authz/strictyaml"
)

// beside is what of the files beside the policy bears on decisions. Each of
// them is followed on its own, whatever state the policy is in.
type beside struct {
	keys  []authz.KeyFile
	locks *authz.Locks
	lists []authz.RevocationList

	keysSum, locksSum [sha256.Size]byte // of what was read
	listSums          [][sha256.Size]byte
}

// lay lays it over a policy.
func (b *beside) lay(p *authz.Policy) (*authz.Policy, strictyaml.Problems) {
	p, problems := p.WithKeys(b.keys)
	return p.WithLocks(b.locks, b.lists), problems
}

func (b *beside) read(s *setup) (problems strictyaml.Problems) {
	var found strictyaml.Problems
	b.keys, b.keysSum, found = s.readKeyFiles()
	problems = append(problems, found...)
	b.locks, b.locksSum, found = s.readLocks()
	problems = append(problems, found...)
	b.lists, b.listSums = nil, nil
	for _, name := range s.settings.RevokedKeys {
		list, sum, found := s.readRevokedKeys(name)
		b.lists, b.listSums = append(b.lists, list), append(b.listSums, sum)
		problems = append(problems, found...)
	}
	return problems
}

// readLocks reads what commands have taken away. There need be no such file.
func (s *setup) readLocks() (*authz.Locks, [sha256.Size]byte, strictyaml.Problems) {
	path := s.path(s.settings.Locks)
	content, err := readFile(path)
	sum := sha256.Sum256(content)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sum, nil
	}
	if err != nil {
		return nil, sum, strictyaml.Problems{{File: path, Message: fmt.Sprintf("cannot be read: %v", reason(err))}}
	}
	locks, problems := authz.ParseLocks(bytes.NewReader(content), path)
	return locks, sum, append(problems, s.checkModesOf(s.settings.Locks)...)
}

// readRevokedKeys reads a list of sshd's RevokedKeys, by its name in the
// settings.
func (s *setup) readRevokedKeys(name string) (list authz.RevocationList, sum [sha256.Size]byte, problems strictyaml.Problems) {
	path := s.path(name)
	list.Name = path
	content, err := readFile(path)
	if err != nil {
		return list, sum, strictyaml.Problems{{File: path, Message: fmt.Sprintf("cannot be read: %v", reason(err))}}
	}
	sum = sha256.Sum256(content)
	if list.List, err = krl.Parse(content); err != nil {
		return list, sum, listProblems(path, err)
	}
	return list, sum, s.checkModesOf(name)
}

// listProblems are the problems that an error of package krl tells of.
func listProblems(path string, err error) strictyaml.Problems {
	var parse *krl.ParseError
	if !errors.As(err, &parse) {
		return strictyaml.Problems{{File: path, Message: err.Error()}}
	}
	var all strictyaml.Problems
	for _, p := range parse.Problems {
		all = append(all, strictyaml.Problem{File: path, Line: p.Line, Column: p.Column, Message: p.Message, Hint: p.Hint})
	}
	return all
}

// readKeyFiles reads the folder of authorized_keys files. What is wrong with
// one of them is a warning, and costs its user all his keys: what the file
// would narrow is not known. Only a folder that cannot be read is an error.
func (s *setup) readKeyFiles() (files []authz.KeyFile, sum [sha256.Size]byte, problems strictyaml.Problems) {
	all := sha256.New()
	if s.settings.AuthorizedKeysDir == "" {
		return nil, sum, nil
	}
	dir := s.path(s.settings.AuthorizedKeysDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, sum, strictyaml.Problems{{File: dir, Message: fmt.Sprintf("cannot be read: %v", reason(err))}}
	}
	if problems = s.checkModesOf(s.settings.AuthorizedKeysDir); problems.Err() != nil {
		return nil, sum, problems
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), "~") { // of editors
			continue
		}
		file, content, found := s.readKeyFile(filepath.Join(dir, e.Name()))
		files, problems = append(files, file), append(problems, found...)
		fmt.Fprintf(all, "%q %q %d %s", e.Name(), file.Unusable, len(content), content)
	}
	return files, [sha256.Size]byte(all.Sum(nil)), problems
}

func (s *setup) readKeyFile(path string) (f authz.KeyFile, content []byte, problems strictyaml.Problems) {
	f = authz.KeyFile{User: filepath.Base(path), Name: path}
	unusable := func(why, hint string) {
		f.Unusable = why
		problems = append(problems, strictyaml.Problem{
			File: path, Message: fmt.Sprintf("all keys of %s are refused: the file %s", printable(f.User), why), Hint: hint, Warning: true,
		})
	}
	name := filepath.Join(s.settings.AuthorizedKeysDir, f.User) // as the settings would name it
	if bad := s.checkModesOf(name).Errors(); len(bad) > 0 {
		unusable(bad[0].Message, bad[0].Hint)
		return f, nil, problems
	}
	content, err := readFile(path)
	if err != nil {
		unusable(fmt.Sprintf("cannot be read: %v", reason(err)), "")
		return f, nil, problems
	}
	if len(content) == 0 {
		// So looks one that is being written, or for which the disk had no room.
		unusable("is empty", "remove it, or write a comment into it, if it is to say nothing")
		return f, nil, problems
	}
	f.File, problems = authkeys.Parse(bytes.NewReader(content), path, time.Local)
	return f, content, problems
}
