//! Puts alike things together, for lists that can hold every thread of a host.

use std::collections::BTreeMap;

/// The items by key; groups in the order in which their first items appear, items in their own.
pub(crate) fn grouped<K: Ord, T>(items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> K) -> Vec<Vec<T>> {
    let mut places: BTreeMap<K, usize> = BTreeMap::new();
    let mut groups: Vec<Vec<T>> = Vec::new();
    for item in items {
        let place = *places.entry(key(&item)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(item),
            None => groups.push(vec![item]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn keeps_the_order() {
        let groups = grouped(["bee", "ant", "bat", "cat", "ape"], |word| word.as_bytes()[0]);
        assert_eq!(groups, [vec!["bee", "bat"], vec!["ant", "ape"], vec!["cat"]]);
    }
}
