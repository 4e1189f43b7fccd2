package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"sekisho/authz/strictyaml"
)

// A userKey is a public key by which somebody may be let in.
type userKey struct {
	key     ssh.PublicKey
	comment string
	from    string // the agent, or a file
}

// line is the key as a policy has it.
func (k userKey) line() string {
	return strings.TrimSpace(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.key))) + " " + k.comment)
}

func (k userKey) String() string {
	return strings.TrimSpace(fmt.Sprintf("%-10s  %s  %s", keyType(k.key), ssh.FingerprintSHA256(k.key), k.comment))
}

// parseUserKey reads a line of a .pub file. What is wrong with it are the
// words of the policy, in which it is to stand.
func parseUserKey(line string) (k userKey, message, hint string) {
	policy, err := plan{User: "user", Keys: []string{line}, Grant: "grant", Targets: []planTarget{{"target", []string{"host"}, []string{"22"}}}}.write("policy.yaml")
	if err != nil {
		return k, err.Error(), ""
	}
	if _, problems := parsePolicy(policy, "", nil, nil); problems.Err() != nil {
		first := problems.Errors()[0]
		return k, first.Message, first.Hint
	}
	key, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return k, err.Error(), ""
	}
	return userKey{key: key, comment: plainComment(comment)}, "", ""
}

// plainComment leaves of a comment what is harmless anywhere.
func plainComment(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 100)]
}

// readUserKeys reads a file of public keys, one a line; the name "-" is in.
func readUserKeys(path string, in io.Reader) ([]userKey, error) {
	var content []byte
	var err error
	if path == "-" {
		path = "standard input"
		content, err = io.ReadAll(io.LimitReader(in, mostBytes))
	} else {
		content, err = readFile(path)
	}
	if err != nil {
		return nil, failf("give the .pub file of the person's key, such as ~/.ssh/id_ed25519.pub", "%s cannot be read: %v", path, reason(err))
	}
	if bytes.Contains(content, []byte("PRIVATE KEY-----")) {
		hint := "the public one is printed by ssh-keygen -y -f " + shellWord(path)
		if _, err := os.Stat(path + ".pub"); err == nil {
			hint = "give the public one: --key " + shellWord(path+".pub")
		}
		return nil, failf(hint, "%s is a private key, which nobody but its owner should have", path)
	}
	var keys []userKey
	var problems strictyaml.Problems
	for i, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, message, hint := parseUserKey(line)
		if message != "" {
			problems = append(problems, strictyaml.Problem{File: path, Line: i + 1, Column: 1, Message: message, Hint: hint})
			continue
		}
		k.from = path
		keys = append(keys, k)
	}
	if len(problems) > 0 {
		return nil, &badFiles{problems}
	}
	if len(keys) == 0 {
		return nil, failf("give the .pub file of the person's key, such as ~/.ssh/id_ed25519.pub", "%s has no key in it", path)
	}
	return keys, nil
}

// findUserKeys returns the keys of the agent and of the .ssh folder in a home
// folder, each once.
func findUserKeys(socket, home string) []userKey {
	var found []userKey
	add := func(k userKey) {
		same := func(o userKey) bool { return bytes.Equal(o.key.Marshal(), k.key.Marshal()) }
		if !slices.ContainsFunc(found, same) {
			found = append(found, k)
		}
	}
	for _, line := range agentKeys(socket) {
		if k, message, _ := parseUserKey(line); message == "" {
			k.from = "agent"
			add(k)
		}
	}
	files, _ := filepath.Glob(filepath.Join(home, ".ssh", "*.pub"))
	for _, path := range files {
		content, err := readFile(path)
		if err != nil {
			continue
		}
		if k, message, _ := parseUserKey(strings.TrimSpace(string(content))); message == "" {
			k.from = path
			add(k)
		}
	}
	return found
}

// agentKeys returns what the agent at socket holds, as lines of .pub files.
func agentKeys(socket string) []string {
	if socket == "" {
		return nil
	}
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return nil
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	keys, err := agent.NewClient(conn).List()
	if err != nil {
		return nil
	}
	lines := make([]string, len(keys))
	for i, k := range keys {
		lines[i] = k.String()
	}
	return lines
}

// errNoAnswer is that a question was left without an answer.
var errNoAnswer = errors.New("no answer")

// ask lets a person at a terminal choose among the keys that were found.
func ask(ctx context.Context, std stdio, user string, found []userKey) ([]userKey, error) {
	fmt.Fprintf(std.err, "Who gets in? These keys were found, to let %s in with:\n\n", user)
	for i, k := range found {
		fmt.Fprintf(std.err, "  %2d  %s  (%s)\n", i+1, k, printable(k.from))
	}
	fmt.Fprintln(std.err)
	answers := lines(std.in)
	for {
		fmt.Fprint(std.err, "Which of them, such as 1 or 1,3? [1] ")
		select {
		case <-ctx.Done():
			fmt.Fprintln(std.err)
			return nil, errNoAnswer
		case answer, ok := <-answers:
			if !ok {
				fmt.Fprintln(std.err)
				return nil, errNoAnswer
			}
			chosen, wrong := choose(answer, found)
			if wrong == "" {
				return chosen, nil
			}
			fmt.Fprintln(std.err, wrong)
		}
	}
}

// lines sends the lines of r until it ends.
func lines(r io.Reader) <-chan string {
	c := make(chan string)
	go func() {
		defer close(c)
		s := bufio.NewScanner(r)
		for s.Scan() {
			c <- s.Text()
		}
	}()
	return c
}

// choose reads an answer such as "1,3"; no answer means the first key.
func choose(answer string, found []userKey) (chosen []userKey, wrong string) {
	words := strings.FieldsFunc(answer, func(r rune) bool { return r == ',' || r == ' ' })
	if len(words) == 0 {
		words = []string{"1"}
	}
	var numbers []int
	for _, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil || n < 1 || n > len(found) {
			return nil, fmt.Sprintf("%q is not a number from 1 to %d.", printable(w), len(found))
		}
		if !slices.Contains(numbers, n) {
			numbers = append(numbers, n)
			chosen = append(chosen, found[n-1])
		}
	}
	return chosen, ""
}
