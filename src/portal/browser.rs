pub fn in_words(agent: &str) -> String {
    agent.to_owned()
}
